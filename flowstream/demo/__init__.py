"""The demo that `flowstream demo` serves: real streams, fast and slow, with bounded memory."""
