"""Events: what they say, the durable stream that they travel on, and the prediction log's tables that keep them."""
