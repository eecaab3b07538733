"""What tests and benchmarks share: servers, engines, pictures and tools. It knows neither of them."""
