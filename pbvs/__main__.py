"""`python -m pbvs`, the form that torchrun starts."""

from pbvs.cli import main

if __name__ == "__main__":
    main()
