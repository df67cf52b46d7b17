"""Quix Streams: a StreamingDataFrame on bytes."""

from quixstreams import Application

from tests.foreign.source import Source, show


def main() -> None:
    source = Source()
    app = Application(
        broker_address=source.servers,
        consumer_group=f"{source.topic}.quix",
        auto_offset_reset="earliest",
        consumer_extra_config={"isolation.level": "read_committed"},
        auto_create_topics=False,
        loglevel="WARNING",
    )
    frame = app.dataframe(app.topic(source.topic, value_deserializer="bytes"))
    frame.apply(source.decode).update(show)
    app.run()


if __name__ == "__main__":
    main()
