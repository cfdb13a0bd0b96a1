"""What the side that is paid does: accept, settle, close, watch."""
