"""Exported models, without PyTorch: `foveate.run.load(folder).predict(photos)`.

It needs onnxruntime, numpy, Pillow and tokenizers, and nothing else that is not in this package. Pictures are
opened, turned, converted, resized and cut by the very code that `Classifier.predict` uses.
"""

from foveate.prediction import Prediction as Prediction
from foveate.run.model import Exported as Exported
from foveate.run.model import load as load
