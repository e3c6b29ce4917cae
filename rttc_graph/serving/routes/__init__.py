"""Routes and the messages that go in and out: OpenAI's, LangServe's, the knowledge base's, health.

May import everything of serving but the application.
"""
