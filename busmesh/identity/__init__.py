"""Who is who: SVIDs, the authority that issues them, and everything that is believed because of them.

- An **SVID** is a key pair and the short-lived certificate that ties it to one SPIFFE ID (`svid`).
- A **trust bundle** is the mesh's name and the roots that may vouch for its members (`trust`).
- The **verifier** turns certificate bytes into a proven SPIFFE ID, or refuses (`verify`).
- A **signed envelope** carries a control message whose sender and purpose are proven (`signed`).
- The **authority** issues SVIDs (`ca`): to newcomers who know a join token (`enrol`), to members again
  before theirs expires (`renew`).
- The **handshake** gives two members fresh session keys, over messages (`handshake`).

Nothing here does I/O except `store`; `now` is always passed in, in unix seconds. Error codes:
BM40xx certificates, BM41xx envelopes, BM42xx enrolment and renewal, BM44xx handshakes, BM45xx files.
"""
