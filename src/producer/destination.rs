//! Where records go.

pub(crate) use self::sealed::Target;
use crate::topic::{Partition, Topic};
use crate::types::TopicName;

/// Where records go: a topic, by handle or by name, or one of its partitions.
///
/// For a topic the record's key chooses the partition. A handle avoids the look-up by name. Each
/// may be borrowed or owned; the call borrows it.
///
/// It is sealed: the crate may add to it, others may not.
///
/// ```
/// # use quipu::{Broker, Record, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// # let broker = Broker::in_memory()?;
/// let orders = broker.create_topic("orders", TopicConfig::new())?;
/// let (producer, name) = (broker.producer(), String::from("orders"));
/// producer.send(&orders, Record::new("by handle"))?.detach();
/// producer.send(orders.partition(0)?, Record::new("into a partition"))?.detach();
/// producer.send(&name, Record::new("by name"))?.detach();
/// producer.send(orders.name(), Record::new("by name"))?.detach();
/// # producer.flush()
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a destination of records",
    label = "expected a topic, a partition, or a topic's name",
    note = "write `&topic`, `&partition`, or the name as `\"name\"` or `&string`",
    note = "a partition by its number: write `topic.partition(number)?`"
)]
pub trait Destination: sealed::Sealed {}

impl Destination for Topic {}
impl Destination for Partition {}
impl Destination for str {}
impl Destination for String {}
impl Destination for TopicName {}
impl<D: Destination + ?Sized> Destination for &D {}

mod sealed {
    use crate::topic::{Partition, Topic};
    use crate::types::TopicName;

    /// A future may hold it while it waits.
    pub trait Sealed: Send + Sync + Unpin {
        fn target(&self) -> Target<'_>;
    }

    /// A destination, borrowed.
    #[derive(Clone, Copy)]
    pub enum Target<'a> {
        /// The topic chooses the partition by the record's key.
        Topic(&'a Topic),
        /// This partition, whatever the key.
        Partition(&'a Partition),
        /// As `Topic`, found by its name.
        Name(&'a str),
    }

    impl Sealed for Topic {
        #[inline]
        fn target(&self) -> Target<'_> {
            Target::Topic(self)
        }
    }

    impl Sealed for Partition {
        #[inline]
        fn target(&self) -> Target<'_> {
            Target::Partition(self)
        }
    }

    impl Sealed for str {
        #[inline]
        fn target(&self) -> Target<'_> {
            Target::Name(self)
        }
    }

    impl Sealed for String {
        #[inline]
        fn target(&self) -> Target<'_> {
            Target::Name(self)
        }
    }

    impl Sealed for TopicName {
        #[inline]
        fn target(&self) -> Target<'_> {
            Target::Name(self.as_str())
        }
    }

    impl<D: Sealed + ?Sized> Sealed for &D {
        #[inline]
        fn target(&self) -> Target<'_> {
            (**self).target()
        }
    }
}
