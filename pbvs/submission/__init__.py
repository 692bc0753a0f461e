"""What is uploaded: readme.txt, the archive and its check."""
