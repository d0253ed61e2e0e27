// Makes HTTP requests with Node's own means and prints what came back, for the tests in this folder.
//
// Standard input: {engine: "http" | "fetch", way: "proxy" | "direct" | "none", agent, service, asks, connections}
// Standard output: {got: [{status, headers, body, url} | {error}], connections}
//
// fetch cannot set Host, and a Node without NODE_USE_ENV_PROXY has no proxy for it. Both ways work through a
// dispatcher: the object that undici, which is inside Node, asks to send each request.
'use strict'
const http = require('node:http')

const input = JSON.parse(require('node:fs').readFileSync(0, 'utf8'))
const [host, port] = input.agent.split(':')
const keepAlive = new http.Agent({ keepAlive: true, maxSockets: 1 })
const base = input.way === 'none' ? `http://${input.agent}` : `http://${input.service}`

function bodyOf (ask) {
  return ask.body === null ? undefined : Buffer.from(ask.body, 'base64')
}

function viaHttp (ask) {
  return new Promise((resolve, reject) => {
    const proxied = input.way === 'proxy'
    const headers = { ...ask.headers }
    if (input.way !== 'none') headers.Host = input.service
    const body = bodyOf(ask)
    if (body !== undefined && !ask.chunked) headers['Content-Length'] = body.length
    const request = http.request({
      host, port, agent: keepAlive, method: ask.method, headers, path: proxied ? base + ask.path : ask.path
    })
    request.on('error', reject)
    request.on('response', response => {
      const parts = []
      response.on('data', part => parts.push(part))
      response.on('error', reject)
      response.on('end', () => {
        const headers = []
        for (let at = 0; at < response.rawHeaders.length; at += 2) {
          headers.push([response.rawHeaders[at], response.rawHeaders[at + 1]])
        }
        resolve({
          status: response.statusCode, headers, body: Buffer.concat(parts).toString('base64'), url: ask.path
        })
      })
    })
    if (body === undefined) return request.end()
    if (!ask.chunked) return request.end(body)
    for (let at = 0; at < body.length; at += 10000) request.write(body.subarray(at, at + 10000))
    request.end()
  })
}

async function dispatcherFor (way) {
  if (way === 'none') return undefined
  await fetch('data:,').then(answer => answer.text()) // loads undici, which then has its dispatcher
  const undici = globalThis[Symbol.for('undici.globalDispatcher.1')]
  return {
    dispatch (options, handler) {
      const service = new URL(options.origin).host
      const headers = { ...options.headers, host: service }
      const path = way === 'proxy' ? `http://${service}${options.path}` : options.path
      return undici.dispatch({ ...options, origin: `http://${input.agent}`, path, headers }, handler)
    }
  }
}

async function viaFetch (ask, dispatcher) {
  const body = bodyOf(ask)
  const options = { method: ask.method, headers: ask.headers, redirect: ask.follow ? 'follow' : 'manual' }
  if (dispatcher !== undefined) options.dispatcher = dispatcher
  if (body !== undefined) {
    options.body = ask.chunked ? new Blob([body]).stream() : body
    if (ask.chunked) options.duplex = 'half'
  }
  const answer = await fetch(base + ask.path, options)
  return {
    status: answer.status,
    headers: [...answer.headers],
    body: Buffer.from(await answer.arrayBuffer()).toString('base64'),
    url: answer.url
  }
}

async function main () {
  const environment = process.env.NODE_USE_ENV_PROXY === '1' && input.way === 'proxy'
  const dispatcher = input.engine === 'fetch' && !environment ? await dispatcherFor(input.way) : undefined
  const got = []
  for (const ask of input.asks) {
    try {
      got.push(await (input.engine === 'fetch' ? viaFetch(ask, dispatcher) : viaHttp(ask)))
    } catch (error) {
      got.push({ error: String(error.cause ?? error) })
    }
  }
  // While the connections are still open: how many does the agent count?
  const connections = input.admin === null
    ? 0
    : await new Promise((resolve, reject) => {
      http.get(`http://${input.admin}/members`, answer => {
        let text = ''
        answer.on('data', part => { text += part })
        answer.on('end', () => resolve(JSON.parse(text).statistics.listener.connections))
      }).on('error', reject)
    })
  process.stdout.write(JSON.stringify({ got, connections }), () => process.exit(0))
}

main()
