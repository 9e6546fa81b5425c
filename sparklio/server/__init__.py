"""The HTTP face: ``create_app(studio)`` is the application, ``sparklio serve`` runs it."""
