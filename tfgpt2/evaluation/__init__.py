"""Evaluation: perplexity, LAMBADA, multiple choice, and an adapter for lm-evaluation-harness."""
