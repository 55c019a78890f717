"""The tiny trained model of the demo and its good and bad fine-tunes."""
