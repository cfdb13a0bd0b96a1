"""What the side that pays does: open, pay, top up, close, withdraw, sync."""
