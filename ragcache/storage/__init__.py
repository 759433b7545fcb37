"""Where do the bytes lie? Records of KV in host memory and on disk."""
