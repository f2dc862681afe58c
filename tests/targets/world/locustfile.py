"""The world service under load, as its users write it for Locust; `perfkit load -f` runs the same file.

NPCInteractionTest: players who talk to NPCs and look at the world. ChatCommandTest: free-form commands.
"""
import random

from locust import HttpUser, between, tag, task

LINES = ["Good morning, is there news?", "I have brought you bread and a coat", "Where did the wolves go?"]
COMMANDS = ["look around", "go north", "take the lantern", "say hello to everyone here", "open the old gate"]


class NPCInteractionTest(HttpUser):
    wait_time = between(0.5, 1.5)
    weight = 3

    def on_start(self):
        self.player = f"player-{random.randint(1, 1000)}"
        self.said = 0

    @tag("write")
    @task(5)
    def player_interaction(self):
        npc = random.randint(1, 50)
        body = {"player_id": self.player, "text": random.choice(LINES)}
        with self.client.post(f"/npc/{npc}/interact", json=body, name="/npc/[id]/interact", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif not answer.json().get("reply"):
                answer.failure("no reply")
            else:
                self.said += 1

    @task(2)
    def get_npc_state(self):
        self.client.get(f"/npc/{random.randint(1, 50)}", name="/npc/[id]")

    @task
    def get_world_state(self):
        self.client.get("/world")

    @task
    def get_environment_state(self):
        self.client.get("/environment")


class ChatCommandTest(HttpUser):
    wait_time = between(1, 2)

    @tag("write")
    @task
    def command(self):
        self.client.post("/chat", json={"message": random.choice(COMMANDS)})
