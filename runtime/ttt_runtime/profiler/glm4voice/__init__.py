"""Times and decoding options of the GLM-4-Voice codec."""
