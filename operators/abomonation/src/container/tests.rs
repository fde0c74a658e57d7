use timely::bytes::arc::BytesMut;
use timely::container::{CapacityContainerBuilder, ContainerBuilder};

use super::*;

type Row = (u64, String);

fn rows(count: u64) -> Vec<Row> {
    (0..count).map(|index| (index, format!("row № {index}"))).collect()
}

/// What a peer receives, at an odd address of a larger buffer, as timely hands it over.
fn receive(sent: &AbomVec<Row>) -> AbomVec<Row> {
    let mut buffer = vec![0xA5; 3];
    sent.into_bytes(&mut buffer);
    assert_eq!(buffer.len() - 3, sent.length_in_bytes());
    let mut bytes = BytesMut::from(buffer).freeze();
    drop(bytes.extract_to(3));
    AbomVec::from_bytes(bytes)
}

#[test]
fn received_rows_equal_those_sent() {
    for count in [0, 1, 300] {
        let sent = AbomVec::from(rows(count));
        let received = receive(&sent);
        assert_eq!(received, sent);
        assert_eq!(received.record_count(), count as i64);
        assert_eq!(received.is_empty(), count == 0);
        assert_eq!(received.clone().into_rows(), rows(count));
        assert_eq!(received.into_rows(), rows(count));
    }
}

#[test]
fn received_rows_are_forwarded() {
    let received = receive(&receive(&AbomVec::from(rows(5))));
    assert_eq!(received.rows(), rows(5));
}

#[test]
fn rows_of_this_worker_are_given_away_and_received_ones_lent() {
    let mut sent = AbomVec::from(rows(3));
    let mut received = receive(&sent);
    assert!(received.drain().all(|row| matches!(row, Cow::Borrowed(_))));
    assert_eq!(sent.drain().len(), 3);
    let mut sent = AbomVec::from(rows(3));
    assert!(sent.drain().all(|row| matches!(row, Cow::Owned(_))));
    assert!(sent.is_empty());
}

#[test]
fn a_received_container_accepts_further_rows() {
    let mut received = receive(&AbomVec::from(rows(2)));
    assert!(received.at_capacity());
    received.push_into((2, "row № 2".to_owned()));
    received.push_into(&(3, "row № 3".to_owned()));
    received.push_into(Cow::Owned((4, "row № 4".to_owned())));
    assert_eq!(received.rows(), rows(5));
}

#[test]
fn builder_fills_containers_as_it_fills_a_vec() {
    let mut ours = CapacityContainerBuilder::<AbomVec<Row>>::default();
    let mut plain = CapacityContainerBuilder::<Vec<Row>>::default();
    let (mut built, mut expected) = (Vec::new(), Vec::new());
    for row in rows(1000) {
        ours.push_into(row.clone());
        plain.push_into(row);
        // What `extract` lends is recycled, received memory included.
        while let Some(container) = ours.extract() {
            built.push(container.clone());
            *container = receive(container);
        }
        while let Some(container) = plain.extract() {
            expected.push(container.clone());
        }
    }
    while let Some(container) = ours.finish() {
        built.push(container.clone());
    }
    while let Some(container) = plain.finish() {
        expected.push(container.clone());
    }
    assert_eq!(built.into_iter().map(AbomVec::into_rows).collect::<Vec<_>>(), expected);
}

#[test]
#[should_panic(expected = "an exchanged container was refused: its bytes changed on the way")]
fn a_damaged_container_panics() {
    let mut buffer = Vec::new();
    AbomVec::from(rows(2)).into_bytes(&mut buffer);
    buffer[40] ^= 1;
    drop(AbomVec::<Row>::from_bytes(BytesMut::from(buffer).freeze()));
}
