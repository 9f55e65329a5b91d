"""A model behind HTTP: questions in, answers out; and the page that is served with it. Extra `serve`."""
