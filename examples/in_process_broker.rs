//! A small service that would talk to Kafka in production, and its unit tests with a broker in the
//! process.
//!
//!     cargo run --release --example in_process_broker
//!     cargo test --example in_process_broker
//!
//! The service keeps a total per customer: it consumes `orders`, adds each to its customer's total,
//! and produces the new total to `totals`, both in one transaction. Its tests below are straight
//! lines: the broker starts in microseconds, there is no thread and no sleep, time moves when the
//! test says so, and a rebalance happens at the next poll.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use quipu::{Broker, Consumer, Producer, RebalanceEvent, Record, Result, Start, TopicConfig};

/// Reads orders, writes totals.
struct Totals {
    broker: Broker,
    consumer: Consumer,
    /// By customer. It covers the assigned partitions: after every rebalance it is read again from
    /// `totals`.
    totals: HashMap<String, u64>,
    stale: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Totals {
    fn start(broker: &Broker) -> Result<Totals> {
        let stale = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let told = stale.clone();
        let consumer = broker
            .consumer("totals")
            .max_poll_interval(Duration::from_secs(60))
            .on_rebalance(move |rebalance| {
                if rebalance.event() == RebalanceEvent::Assigned {
                    told.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(())
            })
            .subscribe(["orders"])?;
        Ok(Totals { broker: broker.clone(), consumer, totals: HashMap::new(), stale })
    }

    /// Processes the available orders. Returns their number.
    fn step(&mut self, timeout: Duration) -> Result<usize> {
        let records = self.consumer.poll(timeout)?;
        if self.stale.swap(false, std::sync::atomic::Ordering::Relaxed) {
            self.totals.clear();
            for written in self.broker.reader(["totals"], Start::Beginning)?.to_end() {
                for total in &written? {
                    self.totals.insert(text(total.key()), text(total.value()).parse().unwrap_or(0));
                }
            }
        }
        let mut transaction = self.broker.transaction();
        for order in &records {
            let total = self.totals.entry(text(order.key())).or_default();
            *total += text(order.value()).parse::<u64>().unwrap_or(0);
            transaction.send("totals", Record::new(total.to_string()).key(order.key().unwrap_or_default()));
        }
        transaction.offsets(&self.consumer, &records);
        if let Err(error) = transaction.commit() {
            // The transaction has not happened, so the totals here must not change either.
            self.stale.store(true, std::sync::atomic::Ordering::Relaxed);
            self.consumer.rewind();
            return Err(error);
        }
        Ok(records.len())
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

fn topics(broker: &Broker) -> Result<()> {
    broker.ensure_topic("orders", TopicConfig::new().partitions(4))?;
    broker.ensure_topic("totals", TopicConfig::new().partitions(4))?;
    Ok(())
}

fn order(producer: &Producer, customer: &str, amount: u64) -> Result<()> {
    producer.send("orders", Record::new(amount.to_string()).key(customer))?.wait().map(drop)
}

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!("usage: in_process_broker");
        return ExitCode::from(2);
    }
    match run() {
        Ok(Some(customers)) => {
            println!("ok: 1000 orders of {customers} customers added up");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("in_process_broker: the totals are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("in_process_broker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The scenario of the tests, once with the system's clock. Returns the number of customers; `None`
/// if a total is wrong.
fn run() -> Result<Option<usize>> {
    let broker = Broker::in_memory()?;
    topics(&broker)?;
    let producer = broker.producer();
    for n in 0..1000 {
        order(&producer, &format!("customer-{}", n % 10), n)?;
    }
    let (mut first, mut second) = (Totals::start(&broker)?, Totals::start(&broker)?);
    while broker.group("totals")?.lag()? > 0 {
        first.step(Duration::from_millis(1))?;
        second.step(Duration::from_millis(1))?;
    }
    let mut last = HashMap::new();
    for totals in broker.reader(["totals"], Start::Beginning)?.to_end() {
        last.extend(totals?.iter().map(|total| (text(total.key()), text(total.value()))));
    }
    for (customer, total) in &last {
        println!("{customer:<12} {total:>6}");
    }
    broker.close()?;
    // Each customer's orders were n, n + 10, n + 20 and so on.
    let right = |(customer, total): (String, String)| {
        (0..10).any(|n| customer == format!("customer-{n}") && total == (49_500 + 100 * n).to_string())
    };
    let customers = last.len();
    Ok((customers == 10 && last.into_iter().all(right)).then_some(customers))
}

#[cfg(test)]
mod tests {
    use quipu::testing::{Disk, ManualClock, Survive, committed, owners, produced};
    use quipu::{BrokerConfig, Durability, Error};

    use super::*;

    const NOW: Duration = Duration::ZERO;

    /// A broker under a clock that stands still, and a producer.
    fn broker(disk: &Disk, clock: &ManualClock) -> Broker {
        let config = BrokerConfig::new().clock(clock.clone()).seed(1).durability(Durability::Sync);
        let broker = config.on_disk(disk).unwrap();
        topics(&broker).unwrap();
        broker
    }

    /// The last total of each customer, sorted.
    fn totals(broker: &Broker) -> Vec<(String, u64)> {
        let mut last = std::collections::BTreeMap::new();
        for total in produced(broker, "totals").unwrap() {
            last.insert(text(total.key()), text(total.value()).parse().unwrap());
        }
        last.into_iter().collect()
    }

    fn all(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
        pairs.iter().map(|(customer, total)| (customer.to_string(), *total)).collect()
    }

    #[test]
    fn orders_are_added_up() {
        let broker = broker(&Disk::new(), &ManualClock::new());
        let mut service = Totals::start(&broker).unwrap();
        assert_eq!(service.step(NOW).unwrap(), 0);
        let producer = broker.producer();
        for (customer, amount) in [("ada", 3), ("ben", 5), ("ada", 4)] {
            order(&producer, customer, amount).unwrap();
        }
        assert_eq!(service.step(NOW).unwrap(), 3);
        assert_eq!(totals(&broker), all(&[("ada", 7), ("ben", 5)]));
        assert_eq!(broker.group("totals").unwrap().lag().unwrap(), 0);
    }

    #[test]
    fn a_second_instance_takes_over_in_the_middle_and_nothing_is_added_twice() {
        let clock = ManualClock::new();
        let broker = broker(&Disk::new(), &clock);
        let producer = broker.producer();
        let mut first = Totals::start(&broker).unwrap();
        for n in 0..20 {
            order(&producer, &format!("c{n}"), 1).unwrap();
        }
        first.step(NOW).unwrap();
        let mut second = Totals::start(&broker).unwrap();
        first.step(NOW).unwrap(); // gives up half of the partitions
        second.step(NOW).unwrap();
        let of_second = owners(&broker, "totals").unwrap().into_values().filter(|owner| *owner == 2).count();
        assert_eq!(of_second, 2);
        // The first one does not poll for too long; the second one owns everything.
        clock.advance(Duration::from_secs(30));
        second.step(NOW).unwrap();
        clock.advance(Duration::from_secs(30));
        for n in 0..20 {
            order(&producer, &format!("c{n}"), 1).unwrap();
        }
        assert_eq!(second.step(NOW).unwrap(), 20);
        assert!(totals(&broker).iter().all(|(_, total)| *total == 2));
        // It polls again, and processes no order a second time.
        assert_eq!(first.step(NOW).unwrap(), 0);
        assert!(totals(&broker).iter().all(|(_, total)| *total == 2));
        assert_eq!(committed(&broker, "totals").unwrap().len(), 4);
    }

    #[test]
    fn a_zombies_transaction_is_rejected_and_changes_nothing() {
        let clock = ManualClock::new();
        let broker = broker(&Disk::new(), &clock);
        let mut zombie = broker
            .consumer("totals")
            .max_poll_interval(Duration::from_secs(60))
            .subscribe(&["orders"])
            .unwrap();
        order(&broker.producer(), "ada", 1).unwrap();
        let records = zombie.poll(NOW).unwrap();
        clock.advance(Duration::from_secs(60));
        let mut heir = Totals::start(&broker).unwrap();
        assert_eq!(heir.step(NOW).unwrap(), 1);
        let mut late = broker.transaction();
        late.send("totals", Record::new("999").key("ada")).offsets(&zombie, &records);
        assert!(matches!(late.commit(), Err(Error::CommitRejected { .. })));
        assert_eq!(totals(&broker), all(&[("ada", 1)]));
    }

    #[test]
    fn a_power_loss_at_any_operation_counts_every_order_once() {
        let clock = ManualClock::new();
        for nth in (1..400).step_by(7) {
            let disk = Disk::new();
            let start = broker(&disk, &clock);
            for n in 0..10 {
                order(&start.producer(), ["ada", "ben"][n % 2], 1).unwrap();
            }
            start.close().unwrap();
            drop(start);
            let run = |broker: &Broker| -> Result<()> {
                let mut service = Totals::start(broker)?;
                while service.step(NOW)? > 0 {}
                Ok(())
            };
            disk.crash_at(nth);
            let config = || BrokerConfig::new().clock(clock.clone()).seed(1).durability(Durability::Sync);
            let _ = config().on_disk(&disk).and_then(|broker| run(&broker));
            let broker = disk.crash_and_reopen(Survive::Random(nth), config()).unwrap();
            run(&broker).unwrap();
            assert_eq!(totals(&broker), all(&[("ada", 5), ("ben", 5)]), "operation {nth}");
        }
    }
}
