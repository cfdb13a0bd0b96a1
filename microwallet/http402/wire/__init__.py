"""What goes over the wire: pure formats, nothing in them trusted."""
