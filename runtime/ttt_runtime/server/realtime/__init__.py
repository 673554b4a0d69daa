"""OpenAI's Realtime protocol over WebSocket, in its generally available form."""
