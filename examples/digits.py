"""A small neural network learns to read handwritten digits, in plain NumPy.

    spark-fast run digits.py --epochs 50 --save digits.npz

While it learns, `spark-fast pause`, `resume`, `advance 10` and `stop` steer it from another terminal, `set lr=0.02`
sets its learning rate, and `call evaluate` has it look how well it reads. Edit this file and type `spark-fast reload`:
the next batch runs the new code. When it is stopped it saves what it has learned so far.
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
    """Images and labels to learn from, and others to test with: always the same ones."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    return [x_train, y_train, x_test, y_test]


def new_model(rng: np.random.Generator, hidden: int = 64) -> Model:
    """64 pixels, one hidden layer, 10 digits."""
    return {
        "w1": rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
        "b2": np.zeros(10),
    }


def forward(model: Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden layer, and the probability of each digit."""
    hidden = np.maximum(0, x @ model["w1"] + model["b1"])
    scores = hidden @ model["w2"] + model["b2"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def train_step(model: Model, x: np.ndarray, y: np.ndarray, lr: float) -> float:
    """One step of gradient descent, in place. Returns the mean cross-entropy before it."""
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
    """The share of the images that the model reads rightly."""
    return float((forward(model, x)[1].argmax(axis=1) == y).mean())


def batches(x: np.ndarray, y: np.ndarray, epochs: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """The data in batches, shuffled anew for each epoch."""
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def main() -> None:
    """Learns, reports now and then, and saves at the end, or when it is stopped."""
    parser = argparse.ArgumentParser(description="A small neural network learns to read handwritten digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="PATH", default="digits.npz")
    parser.add_argument("--report-every", type=int, metavar="STEPS", default=50)
    parser.add_argument("--delay", type=float, metavar="SECONDS", default=0, help="slows each step down, to watch it")
    args = parser.parse_args()

    # What is persisted is made once. After a reload, this function runs again with what was there.
    rng = spark.persist("rng", lambda: np.random.default_rng(args.seed))
    x_train, y_train, x_test, y_test = spark.persist("data", load_data)
    model = spark.persist("model", lambda: new_model(rng))

    def evaluate(split: str = "test") -> dict[str, float]:
        """The accuracy on the images to test with, or on those to learn from ("train")."""
        x, y = (x_train, y_train) if split == "train" else (x_test, y_test)
        return {"images": len(y), "accuracy": accuracy(model, x, y)}

    # What others see, and may set or call.
    state = spark.expose(
        lr=spark.value(args.lr, min=0, max=1, step=0.001, doc="The learning rate."),
        loss=spark.value(0.0, readonly=True, doc="The mean cross-entropy of the last batch."),
        accuracy=spark.value(0.0, readonly=True, doc="The share of the test images that it reads rightly."),
        evaluate=evaluate,
    )
    total = args.epochs * -(-len(x_train) // args.batch_size)
    data = batches(x_train, y_train, args.epochs, args.batch_size, rng)
    try:
        # Before each batch, track() passes a checkpoint: there it waits while the run is paused, and there new code
        # takes over. By its key the loop goes on where it was.
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
