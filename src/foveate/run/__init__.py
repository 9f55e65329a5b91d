"""Runs exported models without PyTorch: `foveate.run.load(folder).predict(photos)`.

It needs only onnxruntime, numpy, Pillow and tokenizers. Pictures are opened, rotated, converted, resized and
cropped by the same code as in `Classifier.predict`.
"""

from foveate.prediction import Prediction as Prediction
from foveate.run.model import Exported as Exported
from foveate.run.model import load as load
