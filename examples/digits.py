"""A small neural network learns to read handwritten digits, in plain NumPy.

    spark-fast run digits.py --epochs 50 --save digits.npz

While it learns, `spark-fast pause`, `resume`, `advance 10` and `stop` steer it from another terminal, `set lr=0.02`
sets its learning rate, and `call evaluate` measures how well it reads. Edit this file and type `spark-fast reload`:
the next batch runs the new code. When the training is stopped, it saves its model.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import spark_fast as spark

Model = dict[str, np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]


def load_data() -> list[np.ndarray]:
    """Return the images and labels for training, and those for testing. They are always the same."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    return [x_train, y_train, x_test, y_test]


def new_model(rng: np.random.Generator, hidden: int = 64) -> Model:
    """Return a model: 64 pixels, one hidden layer, 10 digits."""
    return {
        "w1": rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
        "b2": np.zeros(10),
    }


def forward(model: Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer, and the probability of each digit."""
    hidden = np.maximum(0, x @ model["w1"] + model["b1"])
    scores = hidden @ model["w2"] + model["b2"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def train_step(model: Model, x: np.ndarray, y: np.ndarray, lr: float) -> float:
    """Make one step of gradient descent, in place. Return the mean cross-entropy before it."""
    hidden, probabilities = forward(model, x)
    rows = np.arange(len(y))
    loss = -np.log(probabilities[rows, y] + 1e-12).mean()
    error = probabilities
    error[rows, y] -= 1
    error /= len(y)
    back = (error @ model["w2"].T) * (hidden > 0)
    for name, gradient in [("w2", hidden.T @ error), ("b2", error.sum(0)), ("w1", x.T @ back), ("b1", back.sum(0))]:
        model[name] -= lr * gradient
    return float(loss)


def accuracy(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of the images that the model reads rightly."""
    return float((forward(model, x)[1].argmax(axis=1) == y).mean())


def batches(x: np.ndarray, y: np.ndarray, epochs: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the data in batches, in a new order for each epoch."""
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def main() -> None:
    """Train, report now and then, and save the model at the end, or when the run is stopped."""
    parser = argparse.ArgumentParser(description="A small neural network learns to read handwritten digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="PATH", default="digits.npz")
    parser.add_argument("--report-every", type=int, metavar="STEPS", default=50)
    parser.add_argument("--delay", type=float, metavar="SECONDS", default=0, help="slows each step down, to watch it")
    args = parser.parse_args()

    # persist() makes an object once. After a reload this function runs again, and gets the same objects.
    rng = spark.persist("rng", lambda: np.random.default_rng(args.seed))
    x_train, y_train, x_test, y_test = spark.persist("data", load_data)
    model = spark.persist("model", lambda: new_model(rng))

    def evaluate(split: str = "test") -> dict[str, float]:
        """Return the accuracy on the images for testing, or on those for training ("train")."""
        x, y = (x_train, y_train) if split == "train" else (x_test, y_test)
        return {"images": len(y), "accuracy": accuracy(model, x, y)}

    # Values and a function for other processes to see, set and call.
    state = spark.expose(
        lr=spark.value(args.lr, min=0, max=1, step=0.001, doc="The learning rate."),
        loss=spark.value(0.0, readonly=True, doc="The mean cross-entropy of the last batch."),
        accuracy=spark.value(0.0, readonly=True, doc="The share of the test images that it reads rightly."),
        evaluate=evaluate,
    )
    total = args.epochs * -(-len(x_train) // args.batch_size)
    data = batches(x_train, y_train, args.epochs, args.batch_size, rng)
    try:
        # Before each batch, track() passes a checkpoint. There the run waits while it is paused, and there new code
        # begins to run. The key lets the loop go on where it was.
        for step, (x, y) in spark.track(enumerate(data, start=1), total=total, key="batches"):
            loss = state.loss = train_step(model, x, y, state.lr)
            if step % args.report_every == 0 or step == total:
                state.accuracy = accuracy(model, x_test, y_test)
                print(f"step {step}/{total}  loss {loss:.4f}  accuracy {state.accuracy:.4f}", flush=True)
            time.sleep(args.delay)
    except spark.SparkStopError:
        np.savez(args.save, **model)
        print(f"stopped: saved {args.save}", flush=True)
        raise
    np.savez(args.save, **model)
    print(f"finished: saved {args.save}", flush=True)


if __name__ == "__main__":
    main()
