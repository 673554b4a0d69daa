"""The artefact: manifest, graph specs, files and their hashes; pure data."""
