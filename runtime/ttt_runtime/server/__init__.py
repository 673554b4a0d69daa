"""The server: HTTP in OpenAI's form, Realtime over WebSocket, Wyoming, and a web page."""
