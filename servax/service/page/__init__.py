"""The files of the page; nothing here is code of the service."""
