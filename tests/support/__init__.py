"""What tests share: cases, slow twins, stand-ins for other programs."""
