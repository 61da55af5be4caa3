CREATE TABLE account (
  customer_id text PRIMARY KEY,
  balance     numeric(20, 4) NOT NULL CHECK (balance >= 0)
);

CREATE TABLE charge (
  order_id    text PRIMARY KEY,
  customer_id text NOT NULL REFERENCES account,
  amount      numeric(20, 4) NOT NULL CHECK (amount >= 0)
);
