use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use quipu::testing::{ManualClock, produced};
use quipu::{BrokerConfig, Consumer, Producer, Record, TopicConfig};

use crate::{Outcome, first_record};

/// The code to test: adds the orders of each customer up.
fn add_up(orders: &mut Consumer, totals: &Producer) -> Outcome<()> {
    let mut sums = BTreeMap::<String, u32>::new();
    let records = orders.poll(Duration::from_secs(10))?;
    for order in &records {
        first_record();
        let customer = order.key_str().unwrap_or_default();
        let sum = sums.entry(customer.to_string()).or_default();
        *sum += order.value_str().unwrap_or_default().parse::<u32>()?;
        totals.send("totals", Record::new(sum.to_string()).key(customer))?.wait()?;
        orders.commit(order)?;
    }
    Ok(())
}

pub fn run(_: &Path, _: &str) -> Outcome<Vec<String>> {
    // A broker in memory, under a clock that the test moves: no thread, no waiting.
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory()?;
    for topic in ["orders", "totals"] {
        broker.create_topic(topic, TopicConfig::new())?;
    }
    let producer = broker.producer();
    for (customer, cents) in [("ada", "3"), ("ben", "5"), ("ada", "4")] {
        producer.send("orders", Record::new(cents).key(customer))?.wait()?;
    }
    add_up(&mut broker.consumer("readers").subscribe("orders")?, &producer)?;

    let mut lines = Vec::new();
    for total in produced(&broker, "totals")? {
        lines.push(format!(
            "{} {}",
            total.key_str().unwrap_or_default(),
            total.value_str().unwrap_or_default()
        ));
    }
    Ok(lines)
}
