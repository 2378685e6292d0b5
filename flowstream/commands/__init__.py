"""Groups of commands of the command line (`flowstream.cli`) besides `serve` and `demo`."""
