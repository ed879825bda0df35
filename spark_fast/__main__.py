"""`python -m spark_fast` is `spark-fast`."""

from spark_fast.cli import main

if __name__ == "__main__":
    main()
