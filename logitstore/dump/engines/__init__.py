"""Teachers that an engine serves: vLLM in this process, servers over HTTP, and what they have said before."""
