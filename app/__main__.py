"""`python -m app` is the command `hepaseg`, for places where scripts are not on the path."""

from app.cli import main

if __name__ == "__main__":
    main()
