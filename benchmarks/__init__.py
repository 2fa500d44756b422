"""The figures that the README quotes, each a command. A package proper, since Opacus installs another `benchmarks`."""
