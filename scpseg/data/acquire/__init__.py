"""Download or find the archives and files of a benchmark, verify them, and list their images and labels."""
