"""`python -m headwater.testing.load`: publishes, or holds idle connections."""

from headwater.testing.load.publish import main

if __name__ == "__main__":
    main()
