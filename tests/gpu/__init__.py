"""What only a GPU can prove, as one script of at most eight minutes and as tests marked `gpu`."""
