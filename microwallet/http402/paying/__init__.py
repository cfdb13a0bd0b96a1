"""The client that pays: whom it talks to, and which offer it takes."""
