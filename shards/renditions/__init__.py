"""One image file -> its renditions: the very pixels that packing stores, and that a new image is judged by."""
