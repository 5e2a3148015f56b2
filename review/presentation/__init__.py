"""Text, pictures and pairs as site, report, messages and command line present them."""
