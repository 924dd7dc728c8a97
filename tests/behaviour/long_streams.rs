//! Streams of more events than the newest 64, which an append without an exact version searches for its own ids.

use quipu::{Broker, Error, ExpectedVersion, Record, Stream, TopicConfig, Version};

/// An append of this many events or fewer is looked for among so many of the newest.
const SEARCHED: u64 = 64;

fn event(n: u64) -> Record<'static> {
    Record::new(n.to_string()).event_id(n.to_string())
}

/// A stream of events with the ids 1 to `count`, so that the id of each is its version.
fn stream(count: u64) -> (Broker, Stream) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let stream = topic.stream("k").unwrap();
    for n in 1..=count {
        assert_eq!(stream.append(Version::new(n - 1), [event(n)]).unwrap().version, n);
    }
    (broker, stream)
}

#[test]
fn a_repeated_event_is_found_among_the_newest_64_and_no_further_back() {
    let (_broker, stream) = stream(200);
    let oldest_searched = 200 - SEARCHED + 1;
    for n in [200, 199, 150, oldest_searched] {
        for expected in [ExpectedVersion::Any, ExpectedVersion::Exists] {
            let receipt = stream.append(expected, [event(n)]).unwrap();
            assert_eq!((receipt.version.get(), receipt.first.offset.get()), (n, n - 1), "{expected:?}");
        }
    }
    let pair = stream.append(ExpectedVersion::Any, [event(170), event(171)]).unwrap();
    assert_eq!((pair.version.get(), pair.first.offset.get()), (171, 169));
    assert_eq!(stream.version().unwrap(), 200);
    // An exact version finds it wherever it is.
    let exact = stream.append(Version::new(9), [event(10)]).unwrap();
    assert_eq!((exact.version.get(), exact.first.offset.get()), (10, 9));
    let further = stream.append(ExpectedVersion::Any, [event(oldest_searched - 1)]).unwrap();
    assert_eq!(further.version, 201, "it is not searched, so it is new");
}

#[test]
fn an_append_of_more_than_64_events_is_found_whole() {
    let (_broker, stream) = stream(30);
    let many = || (31..=130).map(event);
    let first = stream.append(ExpectedVersion::Any, many()).unwrap();
    assert_eq!((first.version.get(), first.first.offset.get()), (130, 30));
    assert_eq!(stream.append(ExpectedVersion::Any, many()).unwrap(), first);
    assert_eq!(stream.append(Version::new(30), many()).unwrap(), first);
    assert_eq!(stream.version().unwrap(), 130);
    // One event more than there are is no repetition.
    let more = stream.append(Version::new(30), (31..=131).map(event));
    assert!(matches!(more, Err(Error::VersionConflict { current, .. }) if current == 130), "{more:?}");
}

#[test]
fn versions_of_a_long_stream_count_from_its_first_event() {
    let (_broker, stream) = stream(150);
    for from in [0, 1, 64, 65, 100, 149, 150] {
        let history = stream.load_from(Version::new(from)).unwrap();
        assert_eq!((history.from_version().get(), history.to_version().get()), (from, 150));
        assert_eq!((history.len() as u64, history.version().get()), (150 - from, 150));
        for (version, event) in history.versions() {
            assert_eq!(event.value().unwrap(), version.get().to_string().as_bytes());
        }
    }
    for n in [1, 63, 64, 65, 149, 150, 151, usize::MAX] {
        let newest = stream.last_n(n).unwrap();
        assert_eq!(newest.len(), n.min(150));
        assert_eq!(newest.from_version().get(), 150_u64.saturating_sub(n as u64));
    }
    assert_eq!(stream.last().unwrap().unwrap().value().unwrap(), b"150");
    let beyond = stream.load_from(Version::new(151));
    assert!(matches!(beyond, Err(Error::VersionConflict { current, .. }) if current == 150), "{beyond:?}");
}
