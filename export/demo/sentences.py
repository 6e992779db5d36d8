"""English sentences for the synthetic voices to say, written for this project.

Every fourth one is held out: no network is trained on it, and `demo-eval` says those only.
"""

from __future__ import annotations

_TEXT = """
The blue boat drifted past the old stone bridge.
Please put the paper cups back in the cupboard.
My mother makes the best mushroom soup in town.
Five foxes found a feather on the forest floor.
We will probably move the meeting to Monday.
Who knows whether the weather will hold tomorrow?
Bring both boxes up from the basement before breakfast.
She sells fresh vegetables at the village market.
Thank you for calling, how may I help you today?
The engine stopped twice on the way up the mountain.
I think three of those things belong together.
Put a bit of butter on the warm bread.
Nobody remembers who opened the window.
A quick summary of the news comes at the top of the hour.
The children jumped over puddles all the way home.
Could you tell me the way to the nearest bank?
Purple plums and green apples filled the wooden bowl.
He moved his bishop, and the game was over.
Our flight leaves at seven fifteen from gate twenty two.
The mayor promised to improve the public parks.
Watch out, the floor is wet.
An empty bottle rolled slowly across the deck.
Maybe we should ask somebody who lives here.
The violin was louder than the cello in that hall.
Every summer they camp beside the same river.
Pay attention to the boiling pot, please.
Rough winds pushed the swimmers back to the beach.
The number you want is four, zero, nine, six.
Most people believe what they want to believe.
The farmer fed the hens before the sun was up.
Would you mind opening the other box?
Both of my brothers play in the same band.
Today will be mostly cloudy, with a few bright spells.
The museum has a famous map of the Baltic Sea.
I have never been so happy to see a bus.
Simple problems sometimes need patient people.
The judge paused, then began to read the verdict.
You can pick up your parcel between nine and five.
Fresh coffee and warm rolls were waiting on the table.
The pilot spoke calmly while the storm went on.
Above the valley a lone hawk was circling.
Do not forget to save your work before you leave.
Bob bought a big bag of brown potatoes.
The whole village came out to watch the parade.
Her voice was so soft that nobody heard the question.
They built the tower with nothing but bricks and patience.
What a lovely evening for a walk along the shore.
The doctor asked me to breathe in and hold it.
Moving pictures were once a wonder at the fair.
Seventeen ships lay at anchor in the bay.
Perhaps the map is upside down.
We bake our own bread and brew our own beer.
The phone rang five times before he picked it up.
Somewhere beyond the hills a bell began to ring.
I would rather wait for the next train.
The lamp above the piano needs a new bulb.
Her purple jumper matched the paper lanterns.
A bad workman blames his tools, my father says.
The river was frozen from bank to bank.
If it rains, we will move the tables inside.
Give me a moment to find my glasses.
The old clock in the hall is ten minutes slow.
Many hands make light work of a heavy job.
How much wood do we need for the fence?
The camera follows the ball from end to end.
Warm milk and honey help me fall asleep.
Peter painted the front door a bright shade of yellow.
We met by chance at the bottom of the stairs.
The programme begins with a piece by Brahms.
Please repeat the last part a bit more slowly.
His thumb was bandaged after the climb.
A thin layer of frost covered the fields.
The baby laughed when the bubbles popped.
Keep both hands on the wheel at all times.
Our team won by a single point.
The map shows a footpath behind the abbey.
You may begin whenever you feel ready.
Why would anybody throw away a perfectly good lamp?
The soup wants salt, pepper, and a little more time.
Two by two, the lamps along the pier came on.
My cousin works for a small publishing firm in Bath.
The room was silent but for the hum of the pump.
The teacher wrote three long words on the board.
A mob of seagulls fought over the fish.
I forgot the name of the film we saw.
Everything we own fits into four boxes.
The best part of the job is meeting new people.
She pushed the boat off and jumped aboard.
Half of the audience had left by the interval.
No, that is not what I meant at all.
The wolf moved without a sound among the trees.
It was the warmest March in a hundred years.
The recipe calls for five eggs and a cup of cream.
Beyond this point, only members may pass.
The plumber fixed the pipe in under an hour.
We are open from Monday to Friday, except in June.
Could somebody please turn the volume down?
The moon rose behind a bank of broken cloud.
He has a habit of humming when he is nervous.
Bees were busy among the apple blossoms.
In the beginning, nobody thought it would work.
The thief left nothing but a muddy footprint.
Above all, be polite and be on time.
There were poppies all over the meadow.
The company plans to hire fifty people by spring.
Lift the lid and stir the rice with a fork.
Her uncle drives a big yellow snow plough.
Remember to breathe between the phrases.
A heavy door slammed somewhere below us.
The view from the rooftop was worth the climb.
Mix the flour with the warm water, then wait.
I will send you the figures by four o'clock.
Some of the oldest books were bound in blue leather.
The pub by the bridge serves very good pie.
What time does the first ferry leave?
The crowd roared when the favourite stumbled.
We should be home before the snow begins.
A map, a compass and a bit of luck are all you need.
The bishop blessed the boats in the harbour.
My phone battery is almost empty.
Put your name at the top of every page.
He played the same tune over and over again.
The puppy chased its own shadow around the lamp post.
We used to live above a bakery.
Press the button once and wait for the beep.
The last of the snow melted by the middle of May.
They say the bamboo grows a foot in a day.
The smallest room had the biggest window.
Follow the path until you reach the mill.
Business was slow, but the shop stayed open.
The whistle blew and everybody stopped.
A cup of tea would be wonderful, thank you.
Four new members joined the club this month.
The bus was full of people on their way to work.
Never put off until tomorrow what you can do today.
The woman in the blue coat was waving at us.
Our voices echoed up and down the empty tunnel.
Open the map and show me where we are.
The potter shaped the bowl with both thumbs.
Ships from every port lay side by side.
I am afraid the problem is bigger than we thought.
The grass was damp beneath our bare feet.
Above the bar hung a mirror in a gilded frame.
A storm warning is in force for the northern isles.
The boy bounced the ball against the garden wall.
She memorised the poem on the way to school.
Nothing beats a swim before breakfast.
He wrapped the vase in paper and put it in a box.
The pond is home to frogs, newts and a pair of swans.
When the music stopped, nobody wanted to leave.
This is the first of a series of short reports.
The prime minister will speak to the press at noon.
Share prices rose again, led by the big banks.
Police are looking for a white van with a broken lamp.
The match was abandoned because of heavy fog.
And now the weather, with a look at the week ahead.
Expect sunshine in the south and showers elsewhere.
Temperatures will climb to a mild fifteen degrees.
A new bridge over the river opens to traffic today.
Scientists have mapped the bottom of the deepest lake.
The festival brings visitors from all over Europe.
Passengers should move along inside the carriage.
The next stop is Baker Street, change here for the museum.
Mind the gap between the train and the platform.
Your call is important to us, please hold the line.
For billing, press one, for anything else, press two.
The lift is out of order, please use the stairs.
This shop will be closing in about five minutes.
Welcome back, it is wonderful to see you.
Let me explain how this part works.
First, unplug the lamp and remove the bulb.
Then push the two halves together until they click.
Finally, wipe the surface with a damp cloth.
That is all for today, thanks for watching.
Good morning, everybody, and welcome to the show.
We will be back after a short break.
If you have a question, just ask me.
My name is Amber, and I am your guide this afternoon.
On your left you can see the palace and its famous maze.
Please leave your bags and umbrellas at the door.
The tour takes about an hour and a half.
Behind the pump house there is a small café.
The best way to learn is to make mistakes.
Let us begin with a very simple example.
A triangle has three sides and a square has four.
Multiply both numbers, then subtract the smaller one.
Water boils at a lower temperature on a mountain.
Plants turn sunlight, air and water into sugar.
The moon pulls the sea towards it twice a day.
Sound moves faster through water than through air.
Most metals become softer when they are warm.
A compass needle points to the magnetic north.
The heart is a pump made of muscle.
Bats find their way by listening to echoes.
An octopus has three hearts and a very flexible body.
Whales breathe air, just as we do.
The first printed maps were made from wooden blocks.
Rome was not built in a day.
The emperor moved his capital to the east.
Merchants brought pepper and silk across the desert.
The abbey was burnt, rebuilt, and burnt again.
Two hundred years ago this was all marsh.
My grandfather worked on the boats until he was seventy.
She learned to read music before she could write.
He never spoke about the war, and we never asked.
They married in the spring and moved to the coast.
The letters were tied with a faded purple ribbon.
I found them at the bottom of a trunk in the attic.
It smelled of dust, apples and old paper.
Somebody had been there before us.
The footprints began at the window and ended at the well.
We held our breath and listened.
A twig snapped, and the deer were off.
Run, before the tide comes in!
Stop, you are going the wrong way!
Oh, what a beautiful bird that is!
Ouch, that pan is really hot!
Hurry up, or we will miss the boat.
Are you absolutely sure about that?
Why, of course you may borrow it.
Well, I suppose it might be possible.
Hmm, let me think about it for a moment.
Yes, both of them, if you please.
No problem, take as long as you want.
Sorry, I did not mean to bump into you.
Bless you, do you have a cold?
See you tomorrow, same time, same place.
How about a game of ping pong?
Shall we go up and look at the view?
Where on earth did I put my wallet?
Which of these would you prefer?
Whose umbrella is this in the hallway?
Have you ever been to the opera?
Might I have a word with you in private?
Do babies dream, and if so, of what?
The potatoes are ready, but the beef needs another hour.
Chop the parsley finely and sprinkle it over the top.
Warm the plates, pour the wine, and call the family.
There is a fly in my soup, and it appears to be swimming.
We have sparkling water, apple juice and lemonade.
The bill, please, and could you wrap up the rest?
Her favourite meal is beans on buttered toast.
A pinch of pepper improves almost everything.
The jam will set if you boil it for five more minutes.
Grandma keeps her biscuits in a tin above the stove.
The carpet in the front room is beyond saving.
Somebody has parked a motorbike in front of our gate.
The rubbish is picked up on Wednesday mornings.
I painted the bathroom walls a pale shade of green.
The tap has been dripping for about a month.
Would you help me move the piano?
The neighbours are having another party.
The roof was repaired after the big storm.
We planted beans, peas and a plum tree.
The hedge between the gardens is full of sparrows.
A wet nose and a wagging tail met me at the door.
The vet says that the lamb will be fine.
Our cat sleeps on top of the warm computer.
The ponies were brushed and fed before the show.
A swarm of bees has moved into the chimney.
The boat rocked gently at the end of its rope.
From the hilltop you could see both seas.
We pitched the tent in the shelter of a broken wall.
By nightfall, the path had vanished under snow.
The rope bridge swayed with every step.
Put on your boots, and bring a warm jumper.
My backpack weighs more than I do.
The guide book was printed before the bridge was built.
The border was only a bump in the road.
The hotel had lost our booking.
A man with an enormous beard carried our bags upstairs.
Breakfast is served from half past six.
The swimming pool is being cleaned this morning.
I would like a room with a view of the bay.
Both lifts were broken, so we walked up nine floors.
The ballroom was empty but for a single piano.
The bassoon player came in one bar too early.
Clap your hands and stamp your feet.
The drummer kept time with a pair of spoons.
She hummed a tune that none of us knew.
The choir rehearses in the library basement.
His first album was recorded in a barn.
A good bow is worth more than a good violin.
The curtain rose to reveal an empty stage.
The prompter whispered, but nobody heard.
The film was much shorter than the book.
In the final chapter, the butler confesses.
Poems need not rhyme, but it helps.
She paints with both brush and thumb.
The statue has been missing its thumb since it was found.
Books about birds are on the bottom shelf.
Return the books by the end of the month.
Our computers will be down from nine until noon.
Type your password and press the big blue button.
The file is too big to send by mail.
Please update the map before you set off.
A robot made of paper cups won the first prize.
The printer is jammed, as usual.
The probe will reach Jupiter in five years.
A tiny bubble of air may ruin the whole lens.
The beam passes through two mirrors and a prism.
Check the pressure before you open the valve.
The pump stops by itself when the tank is full.
The bolts must be tightened in the proper order.
Measure twice and cut once.
The batch of bolts was an inch too short.
The workshop smelled of oil and warm wood.
Move the lever up, and the barrier will open.
The bus company has a new timetable.
The fare to Plymouth is five pounds fifty.
Our budget for paper is bigger than for people.
The vote was postponed because nobody came.
A majority of members were in favour.
The chairman thumped the table and called for silence.
Above a certain amount, you pay more tax.
The bank moved its money before the market opened.
Profits have more than doubled since September.
We buy the beans from a farm in Peru.
The shop assistant wrapped it in brown paper.
The new model is lighter, faster and much cheaper.
Buy two and get a third for half the price.
The museum shop sells maps, mugs and umbrellas.
I only came in for a box of matches.
Keep your receipt, in case you want to bring it back.
The goalkeeper jumped, but the ball was past him.
She won by the width of a thumb.
The umpire stopped play because of bad light.
He limped off the pitch after twenty minutes.
The marathon begins and ends at the town hall.
Swimmers must wear a cap at all times.
Bend your knees, and push off with both feet.
Breathe out slowly through your mouth.
Lie on your back and move your arms above your head.
The bandage should be changed every morning.
Take one of these with water before every meal.
My temples throb whenever the weather changes.
The nurse pumped up the cuff and read the number.
Laughing is good for the heart and the lungs.
An apple a day keeps the doctor away.
He stopped smoking when his first baby was born.
I dreamed that I was a moth above a lamp.
Time moves slowly when you are waiting.
Hope is a good breakfast but a poor supper.
Fortune favours the brave, but not every time.
Where there is smoke, there is usually a barbecue.
All that glitters may well be glass.
It takes two to tango and four to play bridge.
Out of sight is not always out of mind.
Still waters may be deep, or merely still.
The proof of the pudding is in the eating.
A rolling stone picks up very little moss.
Many a mickle makes a muckle, whatever that means.
Big oaks grow from small acorns.
Peace begins with a smile, somebody wrote.
People who live in glass houses need good curtains.
The early worm is eaten by the bird.
You cannot make an omelette without breaking eggs.
Let sleeping dogs lie, above all big ones.
Too many cooks spoil the broth, but many hands wash up.
The pen is mightier than the sword, if you have paper.
Bubble, bubble, pop, and the whole pipe was empty.
Pack my bag with five dozen plum jam jars.
Which witch wished for which wicked wish?
Fuzzy Wuzzy was a bear without very much hair.
A proper copper coffee pot belongs above a fire.
Six sleek swans swam swiftly southwards.
Mummy made me mash my mangoes.
Peggy Babcock bought a bit of better butter.
Four furious friends fought for the phone.
Very well, very well, very well.
Move, move, move, before they see us.
Pop the balloon, and wave to the people below.
"""

ALL = tuple(line for line in _TEXT.strip().splitlines() if line)
HELD_OUT = ALL[3::4]
TRAINING = tuple(sentence for n, sentence in enumerate(ALL) if n % 4 != 3)

TEST = (
    "The ferry to the island leaves from the second pier at half past nine.",
    "My brother keeps bees behind the barn and sells the honey in brown jars.",
    "Please put the blue umbrella by the door before the rain begins.",
    "A small crowd gathered to watch the glassblower shape a purple vase.",
    "We moved the piano upstairs, and nobody wants to move it back.",
    "The librarian remembered every book that I had ever borrowed.",
    "Pumpkin soup tastes better with a spoonful of cream and black pepper.",
    "Our train stopped for an hour because a sheep was sleeping on the track.",
    "She mapped the cave by lamplight and numbered each narrow passage.",
    "Maybe the problem is simple, but nobody has bothered to measure it.",
    "The potter warned us that wet clay remembers every fingerprint.",
    "Above the village, two old windmills still pump water to the fields.",
    "I would rather fix a broken clock than buy a new one.",
    "Five members of the club have climbed the mountain in winter.",
    "Both pilots knew the storm would reach the bay before them.",
    "Keep the receipt, because the shop may ask for proof of payment.",
    "Grandmother baked plum cake for the whole street on Sundays.",
    "The museum borrowed a map that shows the harbour before the bridge.",
    "When the orchestra began to play, the baby stopped crying at once.",
    "You can hear the river from the attic if the wind blows north.",
    "Nobody believed the weather report until the first snow fell in May.",
    "The carpenter measured twice, cut once, and swept up the shavings.",
    "A good map is worth more than a fast horse in these marshes.",
    "Tomorrow we will paint the fence and plant beans along the path.",
)
"""For the final figures alone: written after the last choice that training and `HELD_OUT` were used for."""
