"""What recording costs, beside other tracers and the kernel's own floor, measured in one run."""
