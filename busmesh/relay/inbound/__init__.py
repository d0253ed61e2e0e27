"""A request received: opened, admitted, worked on, and answered sealed."""
