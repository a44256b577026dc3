from logclf_daemon.classifier import Classifier as Classifier
from logclf_daemon.classifier import LineVerdict as LineVerdict

__version__: str
