"""Any LangChain chat model as the policy model, any LangChain embeddings as the embedder."""
