"""Where bytes are kept. The only package that touches disks, shares and buckets."""
