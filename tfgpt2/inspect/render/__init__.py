"""Pictures and pages of what `tfgpt2.inspect` found."""
