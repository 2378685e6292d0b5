"""HTTP/3: Hypercorn's, by way of aioquic, with the rules and bounds of ours that hold there."""
