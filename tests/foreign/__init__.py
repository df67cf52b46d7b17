"""Programs that know Kafka, Avro and a contract, and no Pressroom: each prints a topic's values."""
