"""What a record is: Avro contracts, their Python records, bytes, headers and topics."""
