"""Evaluation: perplexity, LAMBADA, multiple choice, and the adapter for lm-evaluation-harness."""
